"""The object use cases of one process, put together in the only place where that is done.

Front ends, simulator and tests all get theirs from here, so that what is tested is what ships.
"""

from collections.abc import Callable

from pinfold.cluster.api import Blobs, Rows
from pinfold.env.api import Env
from pinfold.model.settings import ObjectSettings
from pinfold.objects.buckets import Buckets
from pinfold.objects.digests import Hashing
from pinfold.objects.listing import Listings
from pinfold.objects.multipart import Multipart
from pinfold.objects.objects import Objects
from pinfold.objects.reading import Reading
from pinfold.objects.shards import ShardRows
from pinfold.objects.splitter import Loads, Splitter
from pinfold.objects.staging import Staging


class ObjectStore:
    """Serves objects from rows and blobs. Any number of processes may do so on the same ones.

    Whoever makes one runs its `splitter`. `on_split` hears of every split of a shard that ended
    here.
    """

    def __init__(
        self,
        env: Env,
        rows: Rows,
        blobs: Blobs,
        settings: ObjectSettings,
        *,
        on_split: Callable[[], None] = lambda: None,
    ) -> None:
        self._hashing = Hashing(env)
        loads = Loads(env.rng)
        shards = ShardRows(rows, loads.note)
        self.buckets = Buckets(env, rows, settings)
        self.staging = Staging(blobs, self._hashing, settings)
        self.reading = Reading(blobs, settings)
        self.objects = Objects(shards, self.buckets, self.staging, self.reading)
        self.listings = Listings(shards, self.buckets)
        self.multipart = Multipart(env, shards, self.buckets, self.objects, self.staging, settings)
        self.splitter = Splitter(env.clock, self.buckets, loads, settings, on_done=on_split)

    def close(self) -> None:
        """Let the threads go; nothing is asked for any more."""
        self._hashing.close()
