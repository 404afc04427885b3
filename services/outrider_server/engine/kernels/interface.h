// How a function of the library's plain C interface is declared; library.py calls them.

#pragma once

#define OUTRIDER_EXPORT extern "C" __attribute__((visibility("default")))
