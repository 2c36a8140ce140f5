// Runs rotation kernels, for worker.c.
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>

void list_rotations(void) {
    const struct head head = { (uint32_t) tmac_rotation_kernel_count, tmac_cpu_features() };
    answer(&head, sizeof head);
    for (size_t i = 0; i < tmac_rotation_kernel_count; i++) {
        struct rotation_row row = ROTATION_ROW_OF(&tmac_rotation_kernels[i]);
        snprintf(row.name, sizeof row.name, "%s", tmac_rotation_kernels[i].name);
        answer(&row, sizeof row);
    }
}

void answer_rotation_selection(void) {
    struct rotation_selection asked;
    receive(&asked, sizeof asked);
    char name[NAME_BYTES] = "";
    snprintf(name, sizeof name, "%s", tmac_select_rotation(asked.cpu_features)->name);
    answer(name, sizeof name);
}

void rotate(void) {
    struct rotating asked;
    struct size sizes[2];
    receive(&asked, sizeof asked);
    receive(sizes, sizeof sizes);
    if (asked.kernel >= tmac_rotation_kernel_count) {
        exit(1);
    }
    const struct memory signs = receive_array(sizes[0]), x = receive_array(sizes[1]);
    const struct memory y = allocate(sizes[1]);
    struct tmac_rotation rotation = ROTATION_OF(&asked);
    rotation.signs = sizes[0].size ? (const float *) signs.at : NULL;
    for (int64_t row = 0; row < asked.rows; row++) {
        const float * const from = (const float *) x.at + row * rotation.width;
        float * const to = (float *) y.at + row * rotation.width;
        (asked.is_back ? tmac_rotate_back : tmac_rotate)(&rotation, &tmac_rotation_kernels[asked.kernel], from, 0,
                                                         rotation.width / rotation.block, to);
    }
    answer(y.at, (size_t) sizes[1].size);
    free(signs.block);
    free(x.block);
    free(y.block);
}
