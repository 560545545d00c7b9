// Persistent threads, shared by all searches of the process.
#pragma once

#include <functional>

namespace bitgaze {

// Runs work on the calling thread and on up to workers - 1 free threads of the pool at the same
// time; returns when all have finished. work takes its tasks from a shared counter, so that any
// number of calls, even one, completes them all. Rethrows the first exception.
void run_parallel(unsigned workers, const std::function<void()>& work);

}  // namespace bitgaze
