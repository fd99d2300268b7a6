"""What a person meets: pictures, explorers, headless runs, the report, the command line.

`plots` and `widgets` are called by the notebooks; `headless` runs them in order and `report` makes pages of them;
`new_profile` writes a profile for data of one's own; `own_images` segments photographs of one's own, `annotations` says
their masks as labelme and COCO do, `demo` shows the way to them; `command_line` is `wsseg`, and `data_commands` its
part that handles data sets. Nothing imports from this room.
"""
