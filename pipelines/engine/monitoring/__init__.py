"""What people see of runs and models."""
