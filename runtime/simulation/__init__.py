"""`visitor simulate`: the gateways, app users and CRM of a group of shopping centers."""
