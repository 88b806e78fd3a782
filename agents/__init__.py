"""The operations, the language in which they are declared, and the engine that runs them.

- `operation`, `crud`: what an operation is, and the plain ones.
- `families/`: one package per family, one module per resource.
- `catalogue`: the list of all operations.
- `wire`, `answers`: between handlers and messages.
- `engine/`: consumes requests, applies them in batches, publishes results and changes. It knows no operation.
"""
