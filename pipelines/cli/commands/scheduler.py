"""
`rayfield scheduler`: what runs the schedules.
"""

import signal
from typing import Any

import click

from pipelines.cli.main import STORE, store_at

SECTION = "Schedule"


@click.command()
@click.option("--once", is_flag=True, help="Carry out what is due, and end: for cron, systemd timers, a CronJob")
@STORE
def scheduler(once: bool, store: str) -> None:
    """
    Run what the schedules of a store ask for, until it is ended.

    Any number may look after one store: each tick runs once, and what a dead one began another goes on with. SIGTERM
    interrupts what runs, and the next scheduler continues it. It listens on no port.
    """
    place = store_at(store)
    from pipelines.engine.scheduling.daemon import Scheduler

    loop = ended_by_signals(Scheduler(place))
    if once:
        return loop.once()
    click.echo(f"  Looking after the schedules of {place.address}. Ctrl-C ends it.", err=True)
    loop.forever()


def ended_by_signals(loop: Any) -> Any:
    """Ctrl-C and SIGTERM let the loop end by itself."""

    def stop(*_: object) -> None:
        loop.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return loop
