#include "pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace bitgaze {
namespace {

struct Job {
  const std::function<void()>& work;
  unsigned wanted;       // threads that may still join
  unsigned running = 0;  // threads at work, not counting the caller
  std::exception_ptr error = nullptr;
};

class Pool {
 public:
  void run(unsigned helpers, const std::function<void()>& work) {
    Job job{work, helpers};
    {
      const std::lock_guard lock(mutex_);
      start(helpers);
      jobs_.push_back(&job);
    }
    for (unsigned i = 0; i < helpers; ++i) wake_.notify_one();
    std::exception_ptr error = attempt(work);
    std::unique_lock lock(mutex_);
    std::erase(jobs_, &job);  // threads that have not joined by now are not needed
    job_ended_.wait(lock, [&] { return job.running == 0; });
    if (!error) error = job.error;
    if (error) std::rethrow_exception(error);
  }

 private:
  static std::exception_ptr attempt(const std::function<void()>& work) noexcept {
    try {
      work();
      return nullptr;
    } catch (...) {
      return std::current_exception();
    }
  }

  // Threads are never joined: they hold nothing, and the process may exit while they wait.
  void start(unsigned helpers) {
    try {
      for (; threads_ < helpers; ++threads_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      // The system refuses more threads: the existing ones and the caller do the work.
    }
  }

  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return !jobs_.empty(); });
      Job& job = *jobs_.front();
      if (--job.wanted == 0) jobs_.pop_front();
      ++job.running;
      lock.unlock();
      const std::exception_ptr error = attempt(job.work);
      lock.lock();
      if (error && !job.error) job.error = error;
      if (--job.running == 0) job_ended_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable job_ended_;
  std::deque<Job*> jobs_;
  unsigned threads_ = 0;
};

std::atomic<Pool*> current_pool = nullptr;

// Never destroyed, because its threads use it. A forked child has no threads and makes its own
// pool.
Pool& pool() {
#if defined(__unix__) || defined(__APPLE__)
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { current_pool.store(nullptr); });
  static_cast<void>(registered);
#endif
  Pool* pool = current_pool.load();
  if (pool == nullptr) {
    Pool* const fresh = new Pool;
    if (current_pool.compare_exchange_strong(pool, fresh)) return *fresh;
    delete fresh;
  }
  return *pool;
}

}  // namespace

void run_parallel(unsigned workers, const std::function<void()>& work) {
  if (workers <= 1) {
    work();
  } else {
    pool().run(workers - 1, work);
  }
}

}  // namespace bitgaze
