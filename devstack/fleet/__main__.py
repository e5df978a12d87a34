"""`python -m devstack.fleet`."""

from devstack.fleet.cli import main

if __name__ == "__main__":
    main()
