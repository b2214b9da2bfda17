"""What the drivers that are forked have imported and worked out already: it takes seconds, and opens nothing."""

from functools import cache
from importlib import metadata

import mlflow.pyfunc  # noqa: F401
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import ray.train.torch  # noqa: F401
import rich.progress  # noqa: F401
import scipy.stats.qmc  # noqa: F401
import torch

import pipelines.cli.commands.run  # noqa: F401
import pipelines.engine.execution.driver  # noqa: F401
import pipelines.engine.monitoring.mlflow_sync  # noqa: F401
import tests.faults.drivers  # noqa: F401
import tests.faults.whole  # noqa: F401
from pipelines.engine.caching.modules import closure

# reading the metadata of all packages takes half a second, and they do not change meanwhile
metadata.packages_distributions = cache(metadata.packages_distributions)
metadata.packages_distributions()
closure(["tests.faults.whole", "components.families.shapes.pointnet"])
torch.optim.AdamW([torch.zeros(1)])  # the first one imports torch's compiler
