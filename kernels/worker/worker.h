// What the files of the worker share.
#pragma once

#include "interface/catalog.h"
#include "protocol.h"

enum { MOST_FORCED = 256 }; // bytes of a forced name, with the 0 at its end

// Of the request, and of the answer. If there are no more requests, receive() ends the process.
void receive(void * to, size_t size);
void answer(const void * from, size_t size);

struct memory {
    void * block; // to be freed
    char * at;
};

// An allocation of its own.
struct memory allocate(struct size size);
// Of bytes that make NaN of floats which are read before they are written.
struct memory filled(size_t size);
struct memory receive_array(struct size size);

// A forced name of `size` bytes.
void receive_name(uint32_t size, char name[MOST_FORCED]);
// Whom a dispatcher chose, and why it chose nobody.
void answer_choice(const char * found, const char error[ERROR_BYTES]);

// Runs one thread for each of `count` jobs of `size` bytes, and waits for all of them.
void in_parallel(void * (*function)(void *), void * jobs, size_t size, uint32_t count);

// The requests about attention.
void list_attention(void);
void answer_attention_selection(void);
void plan_attention(void);
void attend(void);

// The requests about rotations.
void list_rotations(void);
void answer_rotation_selection(void);
void rotate(void);

// The requests about delta nets.
void list_delta_nets(void);
void answer_delta_net_selection(void);
void update(void);
void convolve(void);
