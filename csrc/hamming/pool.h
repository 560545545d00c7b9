// Threads that stay, shared by all searches of the process.
#pragma once

#include <functional>

namespace bitgaze {

// Runs work on the calling thread and on up to workers - 1 others, as far as they are free, at the
// same time; returns when all have ended. work takes what there is to do from a common counter, so
// that any number of calls of it, even one, finishes everything. Rethrows the first exception.
void run_parallel(unsigned workers, const std::function<void()>& work);

}  // namespace bitgaze
