"How to cite: the file's fields are those of the Citation File Format 1.2.0, and its facts are those of the project."

from configparser import ConfigParser

import pytest
import yaml
from course import ROOT
from test_house import tracked

FIELDS = {  # of the schema's root, of persons, of entities, and of references, as far as they are used or likely to be
    "root": "abstract authors cff-version commit contact date-released doi identifiers keywords license license-url "
    "message preferred-citation references repository repository-artifact repository-code title type url version",
    "person": "address affiliation alias city country email family-names fax given-names name-particle name-suffix "
    "orcid post-code region tel website",
    "entity": "address alias city country date-end date-start email fax location name orcid post-code region tel "
    "website",
    "reference": "abstract authors collection-title conference date-accessed date-published date-released doi editors "
    "end identifiers institution isbn issn issue journal keywords languages license month notes pages publisher "
    "repository-code start status title type url version volume year",
}
TYPES = {"article", "conference-paper", "data", "generic", "proceedings", "report", "software", "unpublished"}


@pytest.fixture(scope="module")
def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))


def allowed(what: str, values: dict) -> bool:
    return set(values) <= {*FIELDS[what].split()}


def people(authors: list) -> bool:
    "Each is a person or an entity, and not both."
    return bool(authors) and all(
        allowed("entity", one) if "name" in one else allowed("person", one) and "family-names" in one for one in authors
    )


def test_fields_are_those_of_the_format(citation):
    assert allowed("root", citation) and {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["type"] in ("software", "dataset")
    assert people(citation["authors"])
    for one in citation["references"]:
        assert allowed("reference", one) and {"authors", "title", "type"} <= set(one) and one["type"] in TYPES
        assert people(one["authors"]) and allowed("entity", one["conference"]) and one["conference"]["name"]
        assert isinstance(one["year"], int) and all(
            {*each} == {"type", "value", "description"} for each in one["identifiers"]
        )
    texts = [citation[name] for name in ("message", "title", "abstract", "version", "license")]
    assert all(isinstance(text, str) and text for text in texts), "a version without quotation marks is a number"


def test_facts_are_those_of_the_project(citation):
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf8")
    about = settings["DEFAULT"]
    assert (citation["title"], citation["version"]) == (about["title"], about["version"])
    assert [one["name"].lower() for one in citation["authors"]] == [about["author"].lower()]
    assert citation["license"] == "Apache-2.0" and about["license"] == "apache2"
    (paper,) = citation["references"]
    assert paper["title"] in " ".join((ROOT / "README.md").read_text(encoding="utf8").split())


def test_no_file_names_an_address_that_does_not_exist():
    "The project has no place on the web yet: whoever has it cloned it from somebody, who knows from where."
    words = [word.encode() for word in ("github.com/" + "sdfdiff", "sdfdiff." + "github.io", "sdfdiff@" + "users")]
    assert not [path.name for path in tracked() if any(word in path.read_bytes() for word in words)]
