// What a thread holds of the processor that others would pay for while it sleeps.
#pragma once

using GiveUp = void (*)();

// Set by whoever took it, called once and forgotten before this thread sleeps or leaves the pool's work. Null: nothing.
inline constinit thread_local GiveUp before_sleep = nullptr;
