"""From a pipeline's function to a plan: nodes, plan cache, dry run."""
