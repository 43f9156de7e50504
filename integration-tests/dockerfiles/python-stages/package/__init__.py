"""What the package is for."""
