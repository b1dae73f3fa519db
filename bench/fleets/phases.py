"""The phases: one process with all devices, a restart with a store, two processes that share one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable, Optional, Sequence

from harness.accounting import MIB, cpu_seconds, resident
from harness.process import Processes, Server

from . import plant
from .figures import Figure
from .plant import KEY, Asked, Plant, Settings

# From so many on memory per device is judged.
MANY = 20_000
# Devices of the phases with a store.
STORED = 10_000
# The stand-in counts by its own seconds: what began in one may arrive in the next.
ARRIVAL = 1.05
FILE_STORE = """[token_store]
kind = "file"
path = "@PATH@"
key = { env = "@KEY@" }
"""
REDIS_STORE = """[token_store]
kind = "redis"
url = "redis://127.0.0.1:@PORT@"
prefix = "fleet"
key = { env = "@KEY@" }
"""


class Phase:
    """One phase: its own stand-in, and figures."""

    key = ""

    def __init__(self, settings: Settings, directory: Path, processes: Processes, tell: Callable[[str], None]) -> None:
        self.settings = settings
        self.directory = directory / self.key
        self.processes = processes
        self.tell = tell
        self.figures: list[Figure] = []
        self.notes: list[str] = []

    def add(
        self,
        what: str,
        value: float,
        unit: str = "",
        bar: Optional[float] = None,
        goal: Optional[float] = None,
        by_speed: bool = False,
    ) -> None:
        self.figures.append(Figure(self.key, what, value, unit, bar, goal, by_speed))

    def run(self) -> None:
        raise NotImplementedError

    def check(self, asked: Sequence[Asked], counters: dict[str, int], began: float) -> None:
        """What has to hold for every plant, whatever was done with it."""
        settings = self.settings
        for told in [line for one in asked for line in one.told][:5]:
            self.notes.append(f"not right: {told}")
        self.add("requests answered", sum(one.answered for one in asked))
        self.add("requests not answered rightly", sum(one.wrong for one in asked), bar=0)
        self.add("calls refused by the stand-in", counters["refused"], bar=0)
        self.add("calls with the token of another device", counters["calls_for_another_login"], bar=0)
        self.add("tokens before half of the lifetime of the last", counters["tokens_too_early"], bar=0)
        most = 1 + int((time.monotonic() - began) / settings.earliest)
        self.add("tokens of one device, at most", counters["most_tokens_of_one_account"], bar=most)


class Live(Phase):
    """One process, all devices: cold start, load, and nothing but renewals."""

    key = "live"
    minutes = 4.0
    requests = 1000.0

    def run(self) -> None:
        settings = self.settings
        devices = settings.devices
        plant_ = Plant(settings, self.directory, self.processes)
        few = plant_.proxy(devices=1)
        idle = resident(few.pid)
        self.processes.stop(few)
        began = time.monotonic()
        proxy = plant_.proxy()
        known = resident(proxy.pid)
        self.add("memory per device of the file, none live", (known - idle) / devices, "bytes")
        self.tell(f"cold start of {devices:,} devices, {devices / settings.rate:.0f} s at the rate")
        spent = cpu_seconds(proxy.pid)
        asked = [plant_.ask([proxy], 1, devices)]
        spent = cpu_seconds(proxy.pid) - spent
        counters = plant_.counters()
        self.add("cold start", asked[-1].seconds, "s", bar=1.25 * devices / settings.rate + 2, by_speed=True)
        self.add("logins per device in the cold start", counters["logins"] / devices, bar=1)
        self.add("CPU per login and first request", spent / devices * 1e6, "us")
        self.load(plant_, proxy, asked, began)
        self.renewals(plant_, proxy, began)
        counters = plant_.counters()
        self.check(asked, counters, began)
        self.add("devices with a token", counters["accounts_with_tokens"])
        # One whose token ended before its turn logs in again: the machine was too slow for the renewals.
        self.add("logins per device in all", counters["logins"] / devices, bar=1, by_speed=True)
        most = settings.rate * ARRIVAL
        self.add("most logins and renewals in a second", counters["most_tokens_in_one_second"], bar=most)
        end = resident(proxy.pid)
        # What the process needs once would be most of it with few devices.
        bar, goal = (1024, 512) if devices >= MANY else (None, None)
        self.add("memory per live device, beside its line", (end - known) / devices, "bytes", bar, goal)
        self.add("memory per live device in all", (end - idle) / devices, "bytes", bar)
        self.add("memory of the process at the end", end / MIB, "MiB")
        plant.end(proxy)
        self.processes.stop(plant_.twinzo)

    def load(self, plant_: Plant, proxy: Server, asked: list[Asked], began: float) -> None:
        """Requests of drawn devices, whatever is renewed meanwhile."""
        left = self.minutes * 60 - (time.monotonic() - began)
        seconds = max(5.0, left / 3)
        self.tell(f"{self.requests:,.0f} requests per second for {seconds:.0f} s")
        asked.append(plant_.ask([proxy], 1, self.settings.devices, self.requests, seconds))
        self.add("requests per second beside renewals", asked[-1].answered / asked[-1].seconds)

    def renewals(self, plant_: Plant, proxy: Server, began: float) -> None:
        """Nobody asks: whatever it costs is renewals."""
        left = self.minutes * 60 - (time.monotonic() - began)
        # Those of one spread at least.
        seconds = max(left, self.settings.lifetime / 4)
        self.tell(f"renewals only, {seconds:.0f} s")
        before, spent = plant_.counters()["tokens"], cpu_seconds(proxy.pid)
        time.sleep(seconds)
        tokens, spent = plant_.counters()["tokens"] - before, cpu_seconds(proxy.pid) - spent
        self.add("renewals while nobody asks", tokens)
        if tokens:
            each = spent / tokens
            self.add("CPU per renewal", each * 1e6, "us")
            # A token of an hour is renewed after 48 to 54 minutes.
            self.add("CPU per device and hour, tokens of an hour", each * 60 / 51 * 1e6, "us")


class Restart(Phase):
    """Tokens in a file outlive the process."""

    key = "restart"

    def run(self) -> None:
        settings = self.settings
        devices = min(settings.devices, STORED)
        plant_ = Plant(settings, self.directory, self.processes)
        path = self.directory / "tokens"
        store = FILE_STORE.replace("@PATH@", str(path)).replace("@KEY@", KEY)
        began = time.monotonic()
        proxy = plant_.proxy(store)
        self.tell(f"{devices:,} devices log in, and the process is started again")
        asked = [plant_.ask([proxy], 1, devices)]
        logins = plant_.counters()["logins"]
        plant.end(proxy)
        self.add("logins per device before the restart", logins / devices, bar=1)
        self.add("size of the store", path.stat().st_size / devices, "bytes/device")
        proxy = plant_.proxy(store)
        asked.append(plant_.ask([proxy], 1, devices))
        self.add("time until all devices were served again", asked[-1].seconds, "s")
        counters = plant_.counters()
        self.add("logins after the restart", counters["logins"] - logins, bar=0)
        self.check(asked, counters, began)
        plant.end(proxy)
        self.processes.stop(plant_.twinzo)


class Replicas(Phase):
    """Two processes with their tokens in one Redis; then one of them is killed."""

    key = "replicas"

    def run(self) -> None:
        settings = self.settings
        devices = min(settings.devices, STORED)
        redis = plant.redis(self.directory.parent, self.processes)
        if redis is None:
            self.notes.append("replicas are skipped: there is no redis-server (apt-get install redis-server)")
            return
        plant_ = Plant(settings, self.directory, self.processes)
        store = REDIS_STORE.replace("@PORT@", str(redis.port)).replace("@KEY@", KEY)
        empty = plant.redis_memory(redis)
        began = time.monotonic()
        one, other = (plant_.proxy(store) for _ in range(2))
        half = devices // 2
        self.tell(f"{devices:,} devices call at one of two processes, half of them at both at once")
        asked = [plant_.ask([one, other], 1, half), plant_.ask([one], half + 1, devices)]
        counters = plant_.counters()
        self.add("logins per device in all", counters["logins"] / devices, bar=1)
        self.add("Redis memory per device", (plant.redis_memory(redis) - empty) / devices, "bytes")
        logins = counters["logins"]
        self.tell("one of them is killed")
        one.process.kill()
        one.process.wait()
        asked.append(plant_.ask([other], 1, devices))
        self.add("time until the other has served all", asked[-1].seconds, "s")
        counters = plant_.counters()
        self.add("logins because one was killed", counters["logins"] - logins, bar=0)
        again = plant_.proxy(store)
        seconds = max(5.0, settings.latest + 2 * devices / settings.rate + 5 - (time.monotonic() - began))
        self.tell(f"it is started again, and both serve for {seconds:.0f} s, while tokens are renewed")
        rate = min(500.0, float(devices))
        asked.append(plant_.ask([again, other], 1, devices, rate, seconds))
        counters = plant_.counters()
        self.add("logins per device at the end", counters["logins"] / devices, bar=1)
        self.add("tokens per device at the end", counters["tokens"] / devices)
        self.check(asked, counters, began)
        for server in (again, other):
            plant.end(server)
        for server in (plant_.twinzo, redis):
            self.processes.stop(server)


PHASES: list[type[Phase]] = [Live, Restart, Replicas]
