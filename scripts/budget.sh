# The paper's tables in two budgets; sourced by scripts/table*.sh, with their flags:
#   --cpu  20 epochs, 10 for ResNet-110, in bf16; the strongest attacks of each family
#   --gpu  100 epochs, every attack (also without either word)
# All other flags go to the campaign. The runs of a budget lie in runs/paper/cpu or runs/paper/gpu.

# How networks with norms are trained in both budgets. Chosen on validation images, by ResNet-20 of
# kind original after 20 epochs: 10.6 % error, and 11.0 with twice the weight decay. At this rate,
# networks without norms stay at chance: theirs stand beside them, in scripts/table2_other_networks.sh.
recipe="--optimizer sgd --lr 0.2 --weight-decay 5e-4"

budget=
flags=()
for word in "$@"; do
    case $word in
    --cpu | --gpu)
        if [[ -n $budget && $budget != "${word#--}" ]]; then
            echo "error: say --cpu or --gpu, not both" >&2
            exit 2
        fi
        budget=${word#--}
        ;;
    *) flags+=("$word") ;;
    esac
done
budget=${budget:-gpu}
root=runs/paper/$budget

run_paper() { # the commands on standard input, with the other flags
    campaign ${flags[@]+"${flags[@]}"}
}

train() { # train NAME SEED FLAGS...: NAME is DATASET/NETWORK-KIND
    local name=$1 seed="" spent="--epochs 100"
    if [[ $2 != 0 ]]; then
        name+=-seed$2 seed="--seed $2"
    fi
    if [[ $budget == cpu ]]; then
        spent="--epochs 20 --precision bf16"
        [[ $1 != */resnet110* ]] || spent="--epochs 10 --precision bf16"
    fi
    echo train.py ${*:3} $seed $spent --save-as fp16 --output-dir "$root/$name"
}

attack() { # attack FAMILY RUN [CONTROL]
    local spent=""
    if [[ $budget == cpu ]]; then
        spent=" --precision bf16"
        case $1 in
        angle) spent+=" --only 'angle mean|angle-regressor'" ;;
        inversion) spent+=" --only 'dec(x)|dec(a*)|optimised with key'" ;;
        esac
    fi
    echo "attack.py $1 --victim $2${3:+ --control $3}$spent"
}

table() { # table NUMBER: the commands of another script, in this budget
    "$(echo scripts/table"$1"_*.sh)" "--$budget" --list
}

# Which rows of the tables come first: those that show most for their time. The attacks on a network
# stand behind its training; other seeds than the first of ResNet-20 wait until CIFAR-10, CIFAR-100
# and CelebA each have a row.
place() {
    case $1 in
    *cifar10/resnet20*-seed*) echo 6 ;;
    *cifar10/resnet20*) echo 1 ;;
    *cifar10/lenet*-seed* | *cifar100/lenet*-seed*) echo 3 ;;
    *cifar10/lenet* | *cifar100/lenet*) echo 2 ;;
    *cifar100-superclasses*) echo 4 ;;
    *celeba*) echo 5 ;;
    *cifar10/resnet32*) echo 7 ;;
    *cifar10/resnet44*) echo 8 ;;
    *cifar10/resnet56*) echo 9 ;;
    *cifar100/resnet56*) echo 10 ;;
    *cifar10/resnet110*) echo 11 ;;
    *cifar100/resnet110*) echo 12 ;;
    *) echo 13 ;;
    esac
}

by_value() { # the commands on standard input, each once, in the order of their places
    while read -r line; do
        echo "$(place "$line") $line"
    done | sort -s -n -k 1,1 | cut -d " " -f 2- | awk '!seen[$0]++'
}
