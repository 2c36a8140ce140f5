// What T-MAC asks of a machine that computes a part of a model (ggml-rpc), and how a program ends that has lost one. C++ on
// public headers. A server says in the unused byte of its greeting which T-MAC types it knows; llama.cpp's own says 0.
#pragma once

#include "../ggml-cpu/tmac/tmac-types.h"
#include "ggml.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>

#ifndef _WIN32
#include <sys/socket.h>
#endif

// What is sent to a side that has closed the connection fails, and does not end the process by a signal.
#ifdef MSG_NOSIGNAL
#define TMAC_RPC_SEND_FLAGS MSG_NOSIGNAL
#else
#define TMAC_RPC_SEND_FLAGS 0
#endif

// 1..255, by the layout's version and by name and bytes of every T-MAC type: another number is another format.
static inline uint8_t tmac_rpc_types() {
    std::string known = std::to_string(TMAC_LAYOUT_VERSION);
    for (int id = TMAC_FIRST_TYPE_ID; id < TMAC_END_TYPE_ID; id++) {
        const ggml_type type = (ggml_type) id;
        if (tmac_is_type(type)) {
            known += std::string(" ") + std::to_string(id) + " " + ggml_type_name(type) + " " +
                     std::to_string(ggml_blck_size(type)) + " " + std::to_string(ggml_type_size(type));
        }
    }
    uint64_t hash = 0xcbf29ce484222325ULL; // FNV-1a
    for (const char byte : known) {
        hash = (hash ^ (uint8_t) byte) * 0x100000001b3ULL;
    }
    return 1 + hash % 255;
}

// Who asks for a server catches this: the option --rpc, and the loader of a model.
[[noreturn]] static inline void tmac_rpc_refuse(const std::string & endpoint, const std::string & why) {
    throw std::runtime_error("tmac: the RPC server " + endpoint + " " + why);
}

// Ends the process: what the server held of the model and of the context is lost, and the thread that notices it is not
// the one that waits for a result. Exit code 1, and no abort, because this program has no fault.
[[noreturn]] static inline void tmac_rpc_lost(const std::string & endpoint) {
    fflush(stdout);
    fprintf(
        stderr,
        "\ntmac: the RPC server %s is lost: it ended, or closed the connection, or refused what it was asked (its own "
        "output says which). A part of the model was there, so this program ends too\n",
        endpoint.c_str());
    fflush(stderr);
    std::_Exit(1);
}

// Whether a server computes this operation. Throws for a weight whose type it does not know: it would close the connection.
static inline bool tmac_rpc_supports_op(const ggml_tensor * op, const std::string & endpoint, uint8_t types) {
    const auto is_ours = [](const ggml_tensor * tensor) { return tensor && tmac_is_type(tensor->type); };
    const auto weight = std::find_if(std::begin(op->src), std::end(op->src), is_ours);
    if (weight != std::end(op->src) && types != tmac_rpc_types()) {
        tmac_rpc_refuse(
            endpoint,
            std::string(types ? "has another T-MAC, which differs in its types" : "is llama.cpp without T-MAC") +
                ": it cannot compute with '" + (*weight)->name + "' of type " + ggml_type_name((*weight)->type) +
                ". Start `tmac rpc-server` of this version there");
    }
    // Functions of this process, such as the one that rotates activations, are none of another.
    return op->op != GGML_OP_CUSTOM && op->op != GGML_OP_MAP_CUSTOM1 && op->op != GGML_OP_MAP_CUSTOM2 &&
           op->op != GGML_OP_MAP_CUSTOM3;
}
