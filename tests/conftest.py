"""The fixtures of the real chain, for every test folder."""

pytest_plugins = ["devstack.pytest_plugin"]
