"""
preprocess on Ray Data against a process pool on the same function: fixed cost and rate apart. Target: 0.85 of its rate.

Also the peak memory while assets grow tenfold, which should stay flat. `python -m tests.benchmarks.preprocessing`
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from dataclasses import replace

from components.representations.points import Points
from components.representations.voxels import Voxels
from components.source import Asset, Source
from components.sources.furniture import Furniture
from components.step import Printing
from components.steps.preprocess import Job, make, shards
from components.steps.ray_workers import spread
from tests.benchmarks.processes import Sampler

WORK = (Points(count=8192, normals=True), Voxels(resolution=64))


class Repeated(Source):
    """The bundled shapes, each several times under another id: any number of assets that differ in name only."""

    times: int = 1

    def rows(self) -> list[Asset]:
        own = Furniture().rows()
        return [replace(a, id=f"{a.id}~{n}", attributes={"of": a.id}) for n in range(self.times) for a in own]

    def open(self, asset: Asset) -> object:
        return Furniture().open(replace(asset, id=asset.attributes["of"]))


def jobs(times: int) -> list[Job]:
    groups = shards(Repeated(times=times).rows())
    return [Job(tuple(g), tuple((w, f"{times}-{place}-{w.name}") for w in WORK)) for place, g in enumerate(groups)]


def one(job: Job) -> int:
    make(job, Repeated(), Printing())
    return len(job.assets)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--times", type=int, default=10, help="how often the 446 shapes are repeated [10]")
    words.add_argument("--workers", type=int, default=2)
    chosen = words.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RAYFIELD_STORE"] = tempfile.mkdtemp(prefix="bench-")
    one(jobs(1)[0])  # compiles the kernels
    large, small = jobs(chosen.times), jobs(max(1, chosen.times // 10))
    count = sum(len(job.assets) for job in large)
    print(f"{count} assets in {len(large)} shards, {chosen.workers} workers\n")

    with multiprocessing.get_context("spawn").Pool(chosen.workers) as pool:
        pool.map(one, small[: chosen.workers], chunksize=1)  # warm: the fixed cost of a pool is not the question
        with Sampler() as sampled:
            began = time.monotonic()
            pool.map(one, large, chunksize=1)
            wall = time.monotonic() - began
    print(f"process pool   {count / wall:8.1f} assets/s  {sampled.cpu:7.1f} CPU s")

    import ray

    with Sampler() as sampled:
        began = time.monotonic()
        environment = {n: v for n, v in os.environ.items() if n.startswith(("RAYFIELD_", "OMP_", "NUMBA_"))}
        ray.init(
            num_cpus=chosen.workers, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment}
        )
        list(
            spread(
                make, small[:4], (Repeated(), Printing()), on="ray", context=Printing(resources={"CPU": chosen.workers})
            )
        )
        fixed = time.monotonic() - began
    print(f"Ray's start    {fixed:8.1f} s         {sampled.cpu:7.1f} CPU s")
    rates, peaks = {}, {}
    for name, work in (("small", small), ("large", large)):
        assets = sum(len(job.assets) for job in work)
        with Sampler() as sampled:
            began = time.monotonic()
            list(
                spread(
                    make, work, (Repeated(), Printing()), on="ray", context=Printing(resources={"CPU": chosen.workers})
                )
            )
            rates[name] = assets / (time.monotonic() - began)
        peaks[name] = sampled.peak
        print(
            f"Ray Data       {rates[name]:8.1f} assets/s  {sampled.cpu:7.1f} CPU s  "
            f"({assets} assets, peak {sampled.peak / 2**20:.0f} MiB)"
        )
    print(f"\nrate           {rates['large'] / (count / wall):.2f} of the pool's (target 0.85)")
    print(f"peak memory    {peaks['large'] / peaks['small']:.2f} times as much for ten times the assets")


if __name__ == "__main__":
    main()
