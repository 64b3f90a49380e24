"""What people see of a search: live progress, tables and the report page."""
