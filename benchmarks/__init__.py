"Measures sdfdiff against other libraries and its samplers against each other; no part of the package."
