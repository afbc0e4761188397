"""A strategy that gives every worker as many partitions as its capacity is worth, and moves no more than that takes."""

from heapq import heapify, heappop


class Strategy:
    def assign(self, request):
        workers, previous = request.workers, request.previous
        held = [0] * len(workers)
        for owner in previous:
            if owner is not None:
                held[owner] += 1
        left = shares([worker.capacity for worker in workers], held, len(previous))
        answer = [None] * len(previous)
        for at, owner in enumerate(previous):
            if owner is not None and left[owner] > 0:
                left[owner] -= 1
                answer[at] = owner
        open_places = (worker for worker, places in enumerate(left) for _ in range(places))
        return [next(open_places) if owner is None else owner for owner in answer]


def shares(capacities, held, partitions):
    """How many partitions each worker is to have: by capacity, and of two that are due as much, whoever has more keeps it."""
    total = sum(capacities)
    counts = [partitions * capacity // total for capacity in capacities]
    due = [(-(partitions * capacity % total), -had, worker) for worker, (capacity, had) in enumerate(zip(capacities, held))]
    heapify(due)
    for _ in range(partitions - sum(counts)):
        counts[heappop(due)[2]] += 1
    return counts
