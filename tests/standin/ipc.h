// Memory that other processes open: what memory.cpp and ipc.cpp share.
#pragma once
#include "state.h"

namespace standin {

// The first page of the file that holds exported memory; the memory follows.
struct SharedHeader {
  u64 nonce;
  std::atomic<int> freed;
};

// An allocation of this process as a file.
struct Exported {
  int file, device;
  u64 nonce, bytes, whole, offset;
};

// An allocation of another process.
struct Opened {
  SharedHeader* header;
  u64 bytes;
  char* map;
  u64 mapped;
  int opens;
};

int export_block(u64 address, Exported* out);      // the allocation that holds `address`
u64 adopt(const Opened& memory, u64 address);      // from now on it is memory of a GPU here too
Opened* opened_by(u64 nonce, u64* address);        // null unless it is open
bool give_up(u64 address, Opened* out);            // closes it once; false if nothing is open there

}  // namespace standin
