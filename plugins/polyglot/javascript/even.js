// A strategy that gives every worker as many partitions as its capacity is worth, and moves no more than that takes.

export const strategy = {
  assign({ workers, previous }) {
    const held = workers.map(() => 0);
    for (const owner of previous) if (owner !== null) held[owner] += 1;
    const left = shares(workers.map((worker) => worker.capacity), held, previous.length);
    const answer = previous.map((owner) => {
      if (owner === null || left[owner] === 0) return null;
      left[owner] -= 1;
      return owner;
    });
    const open = left.flatMap((places, worker) => Array(places).fill(worker));
    return answer.map((owner) => owner ?? open.pop());
  },
};

// How many partitions each worker is to have: by capacity, and of two that are due as much, whoever has more keeps it.
function shares(capacities, held, partitions) {
  const total = capacities.reduce((sum, capacity) => sum + capacity, 0);
  const counts = capacities.map((capacity) => Math.floor((partitions * capacity) / total));
  const due = capacities.map((capacity, worker) => ({ worker, rest: (partitions * capacity) % total, held: held[worker] }));
  due.sort((a, b) => b.rest - a.rest || b.held - a.held || a.worker - b.worker);
  const missing = partitions - counts.reduce((sum, count) => sum + count, 0);
  for (const { worker } of due.slice(0, missing)) counts[worker] += 1;
  return counts;
}
