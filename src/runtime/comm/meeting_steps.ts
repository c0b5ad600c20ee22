/** The collectives over a {@linkcode Meeting}, as its communicator calls them: with an operation's name instead of its loop. */
import type { ReduceOpName, View } from "./buffers.ts";
import type { CollectiveSteps, Counts, SendRecv } from "./collective_steps.ts";
import * as steps from "./collectives.ts";
import type { Meeting } from "./meeting.ts";

/** The engine of ranks that read each other's memory. */
export class MeetingSteps implements CollectiveSteps {
  #x: Meeting;

  constructor(meeting: Meeting) {
    this.#x = meeting;
  }

  barrier(): steps.Steps {
    return steps.barrier(this.#x);
  }

  broadcast(view: View, root: number): steps.Steps {
    return steps.broadcast(this.#x, view, root);
  }

  allReduce({ send, recv, op }: SendRecv & { readonly op: ReduceOpName }): steps.Steps {
    return steps.reduce(this.#x, { send, recv, reducer: this.#x.reducers.get(send.dtype, op) });
  }

  reduce({ send, recv, op, root }: {
    readonly send: View;
    readonly recv: View | undefined;
    readonly op: ReduceOpName;
    readonly root: number;
  }): steps.Steps {
    return steps.reduce(this.#x, { send, recv, root, reducer: this.#x.reducers.get(send.dtype, op) });
  }

  allGather(o: SendRecv & Counts): steps.Steps {
    return steps.gather(this.#x, o);
  }

  gather(
    o: Counts & { readonly send: View; readonly recv: View | undefined; readonly root: number },
  ): steps.Steps {
    return steps.gather(this.#x, o);
  }

  scatter(
    o: Counts & { readonly send: View | undefined; readonly recv: View; readonly root: number },
  ): steps.Steps {
    return steps.scatter(this.#x, o);
  }

  reduceScatter({ op, ...o }: SendRecv & Counts & { readonly op: ReduceOpName }): steps.Steps {
    return steps.reduceScatter(this.#x, { ...o, reducer: this.#x.reducers.get(o.send.dtype, op) });
  }

  allToAll(
    o: SendRecv & { readonly sendCounts: readonly number[]; readonly recvCounts: readonly number[] },
  ): steps.Steps {
    return steps.allToAll(this.#x, o);
  }

  scan({ op, ...o }: SendRecv & { readonly op: ReduceOpName; readonly exclusive: boolean }): steps.Steps {
    return steps.scan(this.#x, { ...o, reducer: this.#x.reducers.get(o.send.dtype, op) });
  }
}
