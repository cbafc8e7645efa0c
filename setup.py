"Package metadata, read from settings.ini so that it stands in one place; the wheel carries the weights of data/."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
settings = ConfigParser(delimiters=["="])
settings.read(here / "settings.ini", encoding="utf8")
about = settings["DEFAULT"]
EXTRAS = ("lab", "docs", "dev", "bench", "comparisons", "slides", "tensorboard", "accelerate", "parquet", "anndata")
extras = {name: about[f"{name}_requirements"].split() for name in EXTRAS}


class BuildWithData(build_py):
    "Copy the weights, and the note on their licence, to sdfdiff/data in the wheel; a checkout reads them from data/."

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "sdfdiff" / "data"
        self.mkpath(str(target))
        for file in sorted([*(here / "data").glob("*.safetensors"), *(here / "data").glob("README.md")]):
            self.copy_file(str(file), str(target / file.name))


readme = here / "README.md"
setup(
    name=about["lib_name"],
    version=about["version"],
    description=about["description"],
    long_description=readme.read_text(encoding="utf8") if readme.exists() else about["description"],
    long_description_content_type="text/markdown",
    keywords=about["keywords"].split(),
    author=about["author"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["sdfdiff", "sdfdiff.*"]),
    package_data={"": ["*.pyi"], "sdfdiff": ["py.typed"], "sdfdiff.panels": ["panels.js"]},
    cmdclass={"build_py": BuildWithData},
    python_requires=">=" + about["min_python"],
    install_requires=about["requirements"].split(),
    extras_require=extras | {"all": sorted({word for words in extras.values() for word in words})},
    entry_points={"console_scripts": about["console_scripts"].splitlines()},
    zip_safe=False,
)
