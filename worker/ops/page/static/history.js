// How deep each queue was while this page was open: the worker keeps no such history.

const KEPT = 90;
const depths = new Map();

export const history = {
  learn(queues) {
    for (const { name, waiting } of queues) {
      const known = depths.get(name) ?? [];
      known.push(waiting);
      if (known.length > KEPT) known.shift();
      depths.set(name, known);
    }
  },
  of: (name) => depths.get(name) ?? [],
};
