"""`python -m pipelines` is `rayfield`."""

from pipelines.cli.main import main

main()
