"""The app that ``monailabel start_server --app`` loads: ``main.py``. It needs MONAI Label."""
