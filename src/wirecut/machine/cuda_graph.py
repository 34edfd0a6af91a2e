"""Work of a GPU recorded once and replayed: its host then starts one thing in place of hundreds.

record = Recorder()
replay, y = record(lambda: layer(x))        # the same x, refilled before each replay
replay()                                    # y holds the new result
"""

from collections.abc import Callable

import torch

WARM_UPS = 2  # libraries choose and load their kernels, which a recording may not see


class Recorder:
    """Records work into CUDA graphs that share one pool of memory: what one replay returns is good
    until the next.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(
        self, work: Callable[[], torch.Tensor | None]
    ) -> tuple[Callable[[], None], torch.Tensor | None]:
        """How to replay `work`, and what it returns then. Raises RuntimeError for work that waits
        for the GPU or takes memory in ways that cannot be recorded.
        """
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                work()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # NCCL's own thread may ask the GPU meanwhile: only what this thread does counts.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = work()
        return graph.replay, result
