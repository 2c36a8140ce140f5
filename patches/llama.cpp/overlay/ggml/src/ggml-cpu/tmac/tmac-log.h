#pragma once

#include <string>

// Prints a line that begins with "tmac: ": to stderr if TMAC_LOG is set, else to ggml's log, which many programs hide.
void tmac_say(const std::string & line);
