"""Code for development machines only: `visitor dev`, its embedded servers and sample data."""
