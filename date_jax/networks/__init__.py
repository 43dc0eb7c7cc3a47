"""The networks that the systems are built of, and the published weights they can begin with."""
