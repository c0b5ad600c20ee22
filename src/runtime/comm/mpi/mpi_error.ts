/** What libmpi says went wrong. */
import type { ErrorDetails } from "../../../core/errors.ts";
import { CommunicatorError } from "../errors.ts";

/** A call of libmpi that failed; the message holds the library's own words. */
export class MpiError extends CommunicatorError {
  /** The error code, as MPI returned it. */
  readonly code: number;
  /** The error class, as of `mpi.h`. */
  readonly errorClass: number;

  /** `message` names the call. */
  constructor(message: string, error: { readonly code: number; readonly errorClass: number }, details?: ErrorDetails) {
    super(message, details);
    this.code = error.code;
    this.errorClass = error.errorClass;
  }
}
