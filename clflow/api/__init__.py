"""The public Python API; its names are those of the package `clflow` itself."""
