#!/bin/sh
echo "$NAME"
