"""What the rows are measured with: processes, load, accounts and the report."""
