"""Code for development machines only: `visitor dev`, its embedded servers, sample data and simulated gateways."""
