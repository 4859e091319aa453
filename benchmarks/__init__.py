"""What bayestl is measured by."""
