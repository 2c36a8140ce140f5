// The first signal that asks the server to end, handled by a thread: a signal handler that takes a lock waits for ever
// if the thread that it interrupts has it, as the server's main thread often does.

#pragma once

#include <cstdlib> // std::_Exit, which the second signal calls
#include <functional>
#include <thread>
#include <utility>

#if !defined(_WIN32)
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>
#endif

class tmac_signals {
  public:
    // on_signal is called at most once, by a thread of its own. Without a pipe to wake that, handlers call it.
    explicit tmac_signals(std::function<void()> on_signal) : on_signal(std::move(on_signal)) {
        current = this;
#if !defined(_WIN32)
        if (pipe(ends) != 0) {
            ends[0] = ends[1] = -1;
            return;
        }
        // Not for the programs that the server starts.
        for (const int end : ends) {
            fcntl(end, F_SETFD, FD_CLOEXEC);
        }
        thread = std::thread([this] {
            char byte;
            ssize_t count;
            do {
                count = read(ends[0], &byte, 1);
            } while (count < 0 && errno == EINTR);
            if (count == 1 && byte == SIGNALLED) {
                this->on_signal();
            }
        });
#endif
    }

    ~tmac_signals() {
        current = nullptr;
#if !defined(_WIN32)
        if (thread.joinable()) {
            send(FINISHED);
            thread.join();
            close(ends[0]);
            close(ends[1]);
        }
#endif
    }

    tmac_signals(const tmac_signals &) = delete;
    tmac_signals & operator=(const tmac_signals &) = delete;

    // For a signal handler. Windows calls those on threads of their own.
    static void note() {
        tmac_signals * signals = current;
        if (signals == nullptr) {
            return;
        }
#if !defined(_WIN32)
        if (signals->thread.joinable()) {
            const int before = errno;
            signals->send(SIGNALLED);
            errno = before;
            return;
        }
#endif
        signals->on_signal();
    }

  private:
    static constexpr char SIGNALLED = 's', FINISHED = 'f';

#if !defined(_WIN32)
    // A pipe that holds a byte or two always takes another.
    void send(char what) {
        const ssize_t written = write(ends[1], &what, 1);
        (void) written;
    }
#endif

    static inline tmac_signals * volatile current = nullptr;
    std::function<void()> on_signal;
    std::thread thread;
    int ends[2] = { -1, -1 };
};
