"""The console in the browser, at `/console` of an edge with VISITOR_HTTP_CONSOLE. It reads Kafka and PostgreSQL itself,
so that it works while no worker does. It shows ids, states and times, and no other personal data."""
