// Whether the CPU has AVX-VNNI; whether it has AMX and this process may use its tiles.
#pragma once

int tmac_has_avxvnni(void);
int tmac_has_amx_tile(void);
int tmac_has_amx_int8(void);
int tmac_has_amx_bf16(void);
