"""`python -m pipelines` is `rayfield`."""

from pipelines.cli import main

main()
