"""The command ``zf-pyro``, also ``python -m zf_pyro``."""

from .experiments import main

if __name__ == "__main__":
    main()
