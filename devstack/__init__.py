"""The real chain on one machine without containers: PostgreSQL, Kafka, Apicurio Registry, Kafka Connect.

`python -m devstack up` runs it for a developer, `devstack.pytest_plugin` runs it for the tests. The product
never imports this package.
"""
