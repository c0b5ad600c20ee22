/**
 * The ways in which a collective fails. Each carries the code with which its rank should exit, so that whoever supervises
 * the job can tell victims (114) from culprits (115) and from ranks that never met (116).
 */
import { type ErrorDetails, ShardwiseError } from "../../core/errors.ts";
import { EXIT } from "../../core/exit_codes.ts";

/** The base: a communicator that cannot go on. Every later call on it fails with the same error. */
export class CommunicatorError extends ShardwiseError {
  /** With what code this rank should exit. */
  readonly exitCode: number = EXIT.collective;
  /** What this rank was doing: `world#allReduce sum f32[1024] seq 7`; for the report of whoever supervises the job. */
  lastCollective: string | undefined;
}

/** Ranks of one group called different collectives, or the same with different arguments. The message prints both sides. */
export class CollectiveMismatch extends CommunicatorError {}

/** Ranks did not arrive in time. */
export class CollectiveTimeout extends CommunicatorError {
  /** The ranks that did not arrive, as ranks of the group. */
  readonly missing: readonly number[];

  /** `missing`: ranks of the group. */
  constructor(message: string, missing: readonly number[], details?: ErrorDetails) {
    super(message, details);
    this.missing = missing;
  }
}

/** A rank of the group ended, normally or not. */
export class PeerLost extends CommunicatorError {
  /** That of a victim. */
  override readonly exitCode: number = EXIT.victim;
  /** The lost rank, as a rank of the group. */
  readonly rank: number;

  /** `rank`: the lost one, in the group. */
  constructor(message: string, rank: number, details?: ErrorDetails) {
    super(message, details);
    this.rank = rank;
  }
}

/** Another rank of the group gave up and told all others to stop. */
export class CollectiveAborted extends CommunicatorError {
  /** That of a victim. */
  override readonly exitCode: number = EXIT.victim;
  /** Who gave up, as a rank of the group. */
  readonly rank: number;

  /** `rank`: who gave up, in the group. */
  constructor(message: string, rank: number, details?: ErrorDetails) {
    super(message, details);
    this.rank = rank;
  }
}

/** The ranks of a job, or of a new group, did not meet. */
export class RendezvousError extends CommunicatorError {
  /** That of a rendezvous. */
  override readonly exitCode: number = EXIT.rendezvous;
}
