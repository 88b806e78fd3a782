"""What only a development machine runs: `visitor dev`, its embedded servers, sample data and simulated gateways."""
