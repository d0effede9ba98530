"""The report's sections, one file each: a function from the report's data to HTML."""
