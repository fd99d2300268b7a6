"""What a person meets: pictures, explorers, headless runs, the report, the command line.

`plots` and `widgets` are called by the notebooks; `headless` runs them in order and `report` makes pages of them;
`own_images` segments photographs of one's own, `demo` shows the way to their masks; `command_line` is `wsseg`. Nothing
imports from this room.
"""
