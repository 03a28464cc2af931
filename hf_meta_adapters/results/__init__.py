"""What frozen results share: tables, pictures, labels of languages, reports."""
