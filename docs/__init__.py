"""The documentation. It is a package because `runtime.console.documentation` serves its pages."""
