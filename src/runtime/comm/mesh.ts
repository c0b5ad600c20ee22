/** A grid of ranks with named axes, over any communicator: the groups that data, tensor and pipeline parallelism talk in. */
import { InputError } from "../../core/errors.ts";
import type { Communicator, GroupOptions, OpOptions } from "./communicator.ts";
import { CollectiveMismatch } from "./errors.ts";

/** Options of {@linkcode makeMesh}. */
export interface MeshOptions extends GroupOptions {
  /** Sets of axes that get a communicator too, beside each single axis: `[["dp", "sp"]]`. */
  readonly combine?: readonly (readonly string[])[];
}

/** The place of every rank in a grid; the last axis varies fastest, so its ranks are neighbours. */
export interface Mesh extends AsyncDisposable {
  /** Sizes by axis, outermost first. */
  readonly shape: Readonly<Record<string, number>>;
  /** Where this rank is on each axis. */
  readonly coordinates: Readonly<Record<string, number>>;
  /** The ranks that differ from this one only on `name`, in the order of that axis. @throws {InputError} If there is no such axis. */
  axis(name: string): Communicator;
  /**
   * The ranks that differ from this one on `names` only, in the grid's order; all axes together are the whole communicator.
   *
   * @throws {InputError} If an axis is unknown, or `combine` did not name the set.
   */
  axes(names: readonly string[]): Communicator;
  /** The rank of the communicator at `coordinates`; axes left out count as this rank's own. @throws {InputError} If it is outside. */
  rankAt(coordinates: Readonly<Record<string, number>>): number;
  /** Waits until all ranks have closed its communicators; the one it was made of stays open. */
  close(options?: OpOptions): Promise<void>;
}

/**
 * Lays the ranks of `comm` out on `axes`, outermost first; `share` gives what all ranks gave it.
 *
 * @throws {InputError} If the sizes do not multiply to `comm.size`. @throws {CollectiveMismatch} If ranks name different axes.
 */
export async function makeMesh(
  comm: Communicator,
  axes: Readonly<Record<string, number>>,
  options: MeshOptions = {},
  share: (layout: string) => Promise<readonly string[]>,
): Promise<Mesh> {
  const { combine = [], ...group } = options;
  const shape = resolveShape(axes, comm.size), names = Object.keys(shape);
  const coordinates = coordinatesOf(shape, comm.rank);
  const sets = [...names.map((name) => [name]), ...combine.map((set) => inOrder(shape, set))];
  const groups = new Map<string, Communicator>();
  // Every rank checks its arguments before any rank splits, and all split in the same order.
  const whole = keyOf(names);
  requireSameLayout(comm, await share(describeLayout(shape, sets.slice(names.length))));
  for (const set of sets) {
    const key = keyOf(set);
    if (groups.has(key) || (key === whole && set.length > 1)) continue;
    const name = `${group.name === undefined ? "" : `${group.name}.`}${set.join("+")}`;
    groups.set(key, (await comm.split(placeBeside(shape, coordinates, set), comm.rank, { ...group, name }))!);
  }
  if (names.length !== 1) groups.set(whole, comm);
  return new GridMesh(comm, { shape, coordinates, groups });
}

class GridMesh implements Mesh {
  readonly shape: Readonly<Record<string, number>>;
  readonly coordinates: Readonly<Record<string, number>>;
  #comm: Communicator;
  #groups: ReadonlyMap<string, Communicator>;

  constructor(comm: Communicator, o: Pick<Mesh, "shape" | "coordinates"> & { groups: Map<string, Communicator> }) {
    this.#comm = comm;
    this.shape = o.shape;
    this.coordinates = o.coordinates;
    this.#groups = o.groups;
  }

  axis(name: string): Communicator {
    return this.axes([name]);
  }

  axes(names: readonly string[]): Communicator {
    const set = inOrder(this.shape, names);
    const found = this.#groups.get(keyOf(set));
    if (found !== undefined) return found;
    throw new InputError(`Cannot use axes ${set.join(", ")} of a mesh together: they have no communicator`, {
      hint: `make the mesh with { combine: [${JSON.stringify(set)}] }`,
    });
  }

  rankAt(coordinates: Readonly<Record<string, number>>): number {
    for (const name of Object.keys(coordinates)) requireAxis(this.shape, name);
    let rank = 0;
    for (const [name, size] of Object.entries(this.shape)) {
      const at = coordinates[name] ?? this.coordinates[name]!;
      if (!Number.isInteger(at) || at < 0 || at >= size) {
        throw new InputError(`Cannot find a rank at ${name} = ${at}: expected 0 to ${size - 1}`);
      }
      rank = rank * size + at;
    }
    return rank;
  }

  async close(options?: OpOptions): Promise<void> {
    for (const group of this.#own()) await group.close(options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const group of this.#own()) await group[Symbol.asyncDispose]();
  }

  #own(): Communicator[] {
    return [...this.#groups.values()].filter((group) => group !== this.#comm);
  }
}

/** What ranks must agree on: `{ dp: 2, tp: 4 }`, and the sets of axes that are combined. */
function describeLayout(shape: Readonly<Record<string, number>>, sets: readonly (readonly string[])[]): string {
  const combined = sets.length === 0 ? "" : `, combining ${sets.map((set) => set.join("+")).join(", ")}`;
  return `{ ${Object.entries(shape).map(([name, n]) => `${name}: ${n}`).join(", ")} }${combined}`;
}

/** @throws {CollectiveMismatch} At every rank, unless all have the same layout. */
function requireSameLayout(comm: Communicator, layouts: readonly string[]): void {
  const sides = Map.groupBy(comm.ranks, (_, r) => layouts[r]!);
  if (sides.size === 1) return;
  const text = [...sides].map(([layout, ranks]) =>
    `rank${ranks.length === 1 ? "" : "s"} ${ranks.join(", ")}: ${layout}`
  );
  throw new CollectiveMismatch(`Ranks of group "${comm.name}" made different meshes: ${text.join("; ")}`, {
    hint: "all ranks of a group must name the same axes, in the same order, with the same sizes",
  });
}

/** Sizes, with -1 replaced by what remains. @throws {InputError} */
function resolveShape(axes: Readonly<Record<string, number>>, size: number): Record<string, number> {
  const text = Object.entries(axes).map(([name, n]) => `${name}: ${n}`).join(", ");
  const free = Object.entries(axes).filter(([, n]) => n === -1).map(([name]) => name);
  for (const [name, n] of Object.entries(axes)) {
    if (n !== -1 && (!Number.isSafeInteger(n) || n < 1)) {
      throw new InputError(`Cannot make a mesh { ${text} }: axis ${name} has size ${n}`);
    }
  }
  if (free.length > 1) throw new InputError(`Cannot make a mesh { ${text} }: only one axis may be -1`);
  const known = Object.values(axes).reduce((product, n) => n === -1 ? product : product * n, 1);
  const remaining = size / known;
  const fits = free.length === 0 ? remaining === 1 : Number.isInteger(remaining);
  if (!fits || Object.keys(axes).length === 0) {
    throw new InputError(`Cannot make a mesh { ${text} } of ${size} ranks: its sizes multiply to ${known}`, {
      hint: free.length > 0
        ? `the sizes beside ${free[0]} must divide ${size}`
        : `start ${known} ranks, or let one axis be -1, which is what remains`,
    });
  }
  return Object.fromEntries(Object.entries(axes).map(([name, n]) => [name, n === -1 ? remaining : n]));
}

function coordinatesOf(shape: Readonly<Record<string, number>>, rank: number): Record<string, number> {
  const coordinates: Record<string, number> = {};
  for (const [name, size] of Object.entries(shape).toReversed()) {
    coordinates[name] = rank % size;
    rank = Math.floor(rank / size);
  }
  return Object.fromEntries(Object.keys(shape).map((name) => [name, coordinates[name]!]));
}

/** A number that ranks share exactly when they differ on `set` only: their place on the other axes. */
function placeBeside(
  shape: Readonly<Record<string, number>>,
  coordinates: Readonly<Record<string, number>>,
  set: readonly string[],
): number {
  let color = 0;
  for (const [name, size] of Object.entries(shape)) {
    if (!set.includes(name)) color = color * size + coordinates[name]!;
  }
  return color;
}

/** `names` in the mesh's order. @throws {InputError} If one is unknown, or there is none, or one twice. */
function inOrder(shape: Readonly<Record<string, number>>, names: readonly string[]): string[] {
  for (const name of names) requireAxis(shape, name);
  if (names.length === 0 || new Set(names).size !== names.length) {
    throw new InputError(`Cannot use [${names.join(", ")}] as axes of a mesh: name at least one, each once`);
  }
  return Object.keys(shape).filter((name) => names.includes(name));
}

function requireAxis(shape: Readonly<Record<string, number>>, name: string): void {
  if (Object.hasOwn(shape, name)) return;
  throw new InputError(`Unknown mesh axis ${JSON.stringify(name)}: this mesh has ${Object.keys(shape).join(", ")}`);
}

function keyOf(names: readonly string[]): string {
  return names.join("\0");
}
