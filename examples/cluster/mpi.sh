#!/bin/sh
# Ranks started by mpirun of Open MPI or MPICH: examples/cluster/mpi.sh 4 [script.ts arguments...]
# Run from the root of the repository. mpirun itself ends all ranks when one fails.
ranks="${1:-4}"
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- examples/cluster/hello.ts
exec mpirun -n "$ranks" deno run -A "$@"
